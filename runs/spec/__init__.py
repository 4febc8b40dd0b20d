"""What a run is asked to do: manifest, parameters, model families. Plain Python, shared by server
and trainer."""
