"""The models, loaded lazily and once a process."""
