"""Django's side of a running training: start keepers, supervise them, and record their results.

``launching``    claims runs and starts keepers ``dry_run``      answers the runs that start nothing
``attending``    looks after what this host executes ``homecoming``   takes the end of a run into
the database; ``outcome`` reads it from the folder ``engine``       defines the interface of
engines, which place keepers; ``local`` is one, ``engines`` has all ``hosts``        knows this host
and the others ``environment``  builds what the trainer sees"""
