"""The processes that runs need: a private Prefect server, a local Dask cluster, and those of `repli serve`."""
