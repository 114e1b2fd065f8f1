"How the tables of the store come about: scripts that Alembic runs"
__all__ = []
