"""What a picture is worth: criteria, and the best of several starts."""
