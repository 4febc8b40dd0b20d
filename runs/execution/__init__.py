"""Django's side of a running training: start keepers, supervise them, and record their results.

``launching``    claims runs and starts keepers
``dry_run``      answers the runs that start nothing
``attending``    supervises what this host executes
``homecoming``   records the end of a run in the database; ``outcome`` reads it from the folder
``engine``       defines the interface of engines, which place keepers; ``local`` is one,
                 ``engines`` has all
``hosts``        knows this host and the others
``environment``  builds the environment of the training program
"""
