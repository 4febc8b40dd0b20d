"""The chaos harness: ``python -m benchmarks.chaos``. docs/reliability.md says what it does, proves
and has found.

``house``    the system under test, in a temporary folder: database, web server, attendants with
             their task workers
``trainer``  the training command of the runs: does what a plan says and keeps a journal outside
             the run folder
``load``     clients that submit, cancel, retry and delete through the HTTP API
``monkey``   what is killed, stopped, lost and filled, by a seed
``sweeper``  a user who deletes runs and files
``proof``    what must hold at the end; ``heirs``: what must hold of retries
``figures``  how fast it was; ``record`` makes a table of several sessions
"""
