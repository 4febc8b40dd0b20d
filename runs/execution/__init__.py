"""Django's side of a running training: start keepers, attend them, bring their results home.

``launching``    claims runs and starts keepers
``dry_run``      answers the runs that start nothing
``attending``    looks after what this host executes
``homecoming``   takes the end of a run into the database; ``outcome`` reads it from the folder
``engine``       says what an engine is, which places keepers; ``local`` is one, ``engines`` has all
``hosts``        knows this host and the others
``environment``  builds what the trainer sees
"""
