"""The three flows, and what starts, serves and shows them.

`enrich`, `reprocess` and `drill` are the flows. `cli` is the command line, `dashboard` the page in the browser.
`dispatch` sends batches to workers, `config` turns what was asked for into settings, `server` starts Prefect and Dask.
"""
