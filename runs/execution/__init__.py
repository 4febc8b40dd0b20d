"""Django's side of a running training: start keepers, attend them, bring their results home.

``launching`` claims runs and starts keepers, ``dry_run`` answers the runs that start nothing, ``attending`` looks after
what this host executes, ``outcome`` reads the end of a run from its folder, ``homecoming`` takes it into the database, ``environment`` builds what the trainer sees.
"""
