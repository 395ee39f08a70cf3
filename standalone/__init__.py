"""The embedded host: runs the pack's graphs, and serves the graph editor, without ComfyUI.

`python -m standalone run FILE` executes a workflow, `serve` opens the editor, and `batch WORKFLOW`
runs one for every row of a table, here or on running servers. It speaks ComfyUI's HTTP and websocket protocol, and holds what running this pack's graphs needs.
"""
