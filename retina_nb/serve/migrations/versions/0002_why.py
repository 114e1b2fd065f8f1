"Why a bundle was deployed"
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = '0002', '0001', None, None

def upgrade():
    op.add_column('deployment', sa.Column('why', sa.String(), nullable=False, server_default=''))

def downgrade():
    op.drop_column('deployment', 'why')
