"""The embedded host: runs the pack's graphs, and serves the graph editor, without ComfyUI.

`python -m standalone run FILE` executes a workflow, `python -m standalone serve` opens the editor.
It speaks ComfyUI's HTTP and websocket protocol, and holds what running this pack's graphs needs.
"""
