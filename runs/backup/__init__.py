"""Backups: one folder that holds the database, the secret key and the folders of the runs
(``manage.py backup``, ``restore``).

``making`` writes one while the system runs, ``restoring`` puts one back into a system that is
stopped. Both use ``archive`` (the layout and the manifest), ``copying`` (folders of runs) and
``databases`` (SQLite and PostgreSQL).

The database is saved first and the folders afterwards, so every folder is at least as new as its
row. That is the state which a crash leaves as well: the end of a training is in its folder and not
yet in the database, and supervision records it.
"""
