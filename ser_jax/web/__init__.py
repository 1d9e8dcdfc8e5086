"""A trained run behind a web page and a JSON interface: uploads, and speech that is judged while it is spoken."""
