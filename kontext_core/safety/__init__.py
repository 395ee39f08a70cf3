"""Checks of what goes into an edit and comes out, marks that say where a picture comes from. All of it is off
unless somebody asks for it, and none of it is silent."""
