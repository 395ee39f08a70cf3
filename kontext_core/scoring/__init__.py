"""What a picture is worth: criteria, judges behind an endpoint, and the best of several starts."""
