"""The status of a host: its services, its workspaces, and the page that shows them."""
