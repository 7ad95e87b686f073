"""Who may do what on the admin interface: projects, principals, roles, scopes, tokens. Pure.

`project` checks names, `scope` says where, `roles` says what, `bearer` is the token's text, `principal` puts them
together and decides, `record` is the stored form.
"""
