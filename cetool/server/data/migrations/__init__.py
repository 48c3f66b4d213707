"""The changes that lead from each released schema to the next, run by Alembic.

Migrations expand, then contract: one release adds columns and tables that the release before ignores, and a later one
removes what no release uses. Each is one transaction. CONTRIBUTING.md has the rules.
"""
