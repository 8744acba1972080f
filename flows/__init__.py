"""The three flows `enrich`, `reprocess` and `drill`, and the programs that start, serve and show them.

`cli` is the command line, `dashboard` the page in the browser. `dispatch` sends batches to workers, `config` turns
options and form parameters into settings, `server` starts Prefect and Dask.
"""
