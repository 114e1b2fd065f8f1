"Alembic's own entry: `retina_nb.serve.engine.migrate` calls it with a connection that is in a transaction already"
from alembic import context

from retina_nb.serve.schema import METADATA

if hasattr(context, 'config'): # else it was imported, and not run by Alembic
    attributes = context.config.attributes
    context.configure(connection=attributes['connection'], target_metadata=METADATA, version_table=attributes['versions'],
                      compare_type=True)
    with context.begin_transaction(): context.run_migrations()
