"""Run the migrations in the transaction that :mod:`cetool.server.data.upgrading` began."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
