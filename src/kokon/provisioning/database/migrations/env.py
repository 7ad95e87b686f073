"""Alembic runs this to apply steps in the transaction that `kokon.provisioning.database.migrate` has begun."""

from alembic import context

from kokon.provisioning.database.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
