"""The run folder: the protocol between web server, keeper and trainer (docs/run-folder.md).

``names`` holds the file names, ``files`` reads and writes them, ``records`` defines what they
contain, ``leftovers`` and ``processes`` find the processes of a run, ``checkpoints`` and ``tree``
read and remove folders.

Standard library only, with as few imports as possible (no typing, pathlib or tempfile in what the
keeper imports), because each keeper stays in memory for days. Linux only: it reads /proc.

Nothing in a run folder is trusted, because the trainer can write there. Symbolic links are never
followed, only regular files are read, and reads never block.
"""
