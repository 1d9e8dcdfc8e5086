"""A trained run behind a web page and a JSON interface: uploads and live speech."""
