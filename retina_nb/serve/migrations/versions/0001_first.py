"""The first tables of the store"""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = '0001', None, None, None
TIME = sa.DateTime(timezone=True)
EMPTIED = dict( # what an erasure empties: PostgreSQL keeps samples of a column in its statistics, and must not of these
    subject=['key', 'secret'], image=['subject', 'hmac', 'name', 'kept'], request=['key', 'body', 'client', 'tags'],
    prediction=['error', 'more'], feedback=['reason'], review=['result'], alert=['why'])

def upgrade():
    op.create_table('audit',
    sa.Column('sequence', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('kind', sa.String(), nullable=False),
    sa.Column('reference', sa.String(), nullable=False),
    sa.Column('digest', sa.String(), nullable=False),
    sa.Column('at', TIME, nullable=False),
    sa.Column('previous', sa.String(), nullable=False),
    sa.Column('hash', sa.String(), nullable=False),
    sa.PrimaryKeyConstraint('sequence', name='pk_audit')
    )
    op.create_index('ix_audit_reference', 'audit', ['reference'], unique=False)
    op.create_table('bundle',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('task', sa.JSON(), nullable=False),
    sa.Column('preprocess', sa.String(), nullable=False),
    sa.Column('run', sa.String(), nullable=False),
    sa.Column('data', sa.String(), nullable=False),
    sa.Column('code', sa.String(), nullable=False),
    sa.Column('folder', sa.String(), nullable=False),
    sa.Column('registered', TIME, nullable=False),
    sa.PrimaryKeyConstraint('id', name='pk_bundle')
    )
    op.create_table('key',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('role', sa.String(), nullable=False),
    sa.Column('hash', sa.String(), nullable=False),
    sa.Column('made', TIME, nullable=False),
    sa.Column('revoked', TIME, nullable=True),
    sa.PrimaryKeyConstraint('id', name='pk_key')
    )
    op.create_table('request',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('key', sa.String(), nullable=True),
    sa.Column('body', sa.String(), nullable=False),
    sa.Column('client', sa.String(), nullable=False),
    sa.Column('tags', sa.JSON(), nullable=False),
    sa.Column('state', sa.String(), nullable=False),
    sa.Column('begun', TIME, nullable=False),
    sa.Column('done', TIME, nullable=False),
    sa.PrimaryKeyConstraint('id', name='pk_request'),
    sa.UniqueConstraint('key', name='uq_request_key')
    )
    op.create_index('ix_request_done', 'request', ['done'], unique=False)
    op.create_table('setting',
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('value', sa.JSON(), nullable=False),
    sa.PrimaryKeyConstraint('name', name='pk_setting')
    )
    op.create_table('subject',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('key', sa.String(), nullable=False),
    sa.Column('secret', sa.String(), nullable=False),
    sa.Column('made', TIME, nullable=False),
    sa.PrimaryKeyConstraint('id', name='pk_subject'),
    sa.UniqueConstraint('key', name='uq_subject_key')
    )
    op.create_table('deployment',
    sa.Column('id', sa.Integer(), autoincrement=True, nullable=False),
    sa.Column('alias', sa.String(), nullable=False),
    sa.Column('bundle', sa.String(), nullable=False),
    sa.Column('share', sa.Double(), nullable=False),
    sa.Column('since', TIME, nullable=False),
    sa.Column('by', sa.String(), nullable=False),
    sa.ForeignKeyConstraint(['bundle'], ['bundle.id'], name='fk_deployment_bundle'),
    sa.PrimaryKeyConstraint('id', name='pk_deployment')
    )
    op.create_index('ix_deployment_alias', 'deployment', ['alias'], unique=False)
    op.create_index('ix_deployment_bundle', 'deployment', ['bundle'], unique=False)
    op.create_table('image',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('sha256', sa.String(), nullable=False),
    sa.Column('subject', sa.String(), nullable=True),
    sa.Column('hmac', sa.String(), nullable=False),
    sa.Column('size', sa.Integer(), nullable=False),
    sa.Column('kind', sa.String(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('kept', sa.String(), nullable=False),
    sa.Column('at', TIME, nullable=False),
    sa.ForeignKeyConstraint(['subject'], ['subject.id'], name='fk_image_subject'),
    sa.PrimaryKeyConstraint('id', name='pk_image')
    )
    op.create_index('ix_image_sha256', 'image', ['sha256'], unique=False)
    op.create_index('ix_image_subject', 'image', ['subject'], unique=False)
    op.create_table('prediction',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('request', sa.String(), nullable=False),
    sa.Column('image', sa.String(), nullable=False),
    sa.Column('bundle', sa.String(), nullable=False),
    sa.Column('place', sa.Integer(), nullable=False),
    sa.Column('role', sa.String(), nullable=False),
    sa.Column('precision', sa.String(), nullable=False),
    sa.Column('probabilities', sa.JSON(none_as_null=True), nullable=True),
    sa.Column('grade', sa.Integer(), nullable=True),
    sa.Column('referable', sa.Boolean(), nullable=True),
    sa.Column('positive', sa.Double(), nullable=True),
    sa.Column('threshold', sa.Double(), nullable=True),
    sa.Column('quality', sa.JSON(), nullable=False),
    sa.Column('novelty', sa.Double(), nullable=True),
    sa.Column('novel', sa.Boolean(), nullable=True),
    sa.Column('seconds', sa.JSON(), nullable=False),
    sa.Column('more', sa.JSON(), nullable=False),
    sa.Column('error', sa.String(), nullable=False),
    sa.Column('at', TIME, nullable=False),
    sa.ForeignKeyConstraint(['bundle'], ['bundle.id'], name='fk_prediction_bundle'),
    sa.ForeignKeyConstraint(['image'], ['image.id'], name='fk_prediction_image'),
    sa.ForeignKeyConstraint(['request'], ['request.id'], name='fk_prediction_request'),
    sa.PrimaryKeyConstraint('id', name='pk_prediction'),
    sa.UniqueConstraint('request', 'place', 'role', name='uq_prediction_request')
    )
    op.create_index('ix_prediction_at', 'prediction', ['at'], unique=False)
    op.create_index('ix_prediction_bundle', 'prediction', ['bundle'], unique=False)
    op.create_index('ix_prediction_image', 'prediction', ['image'], unique=False)
    op.create_index('ix_prediction_request', 'prediction', ['request'], unique=False)
    op.create_table('alert',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('prediction', sa.String(), nullable=True),
    sa.Column('who', sa.String(), nullable=False),
    sa.Column('why', sa.String(), nullable=False),
    sa.Column('at', TIME, nullable=False),
    sa.Column('seen_by', sa.String(), nullable=False),
    sa.Column('seen', TIME, nullable=True),
    sa.ForeignKeyConstraint(['prediction'], ['prediction.id'], name='fk_alert_prediction'),
    sa.PrimaryKeyConstraint('id', name='pk_alert')
    )
    op.create_index('ix_alert_prediction', 'alert', ['prediction'], unique=False)
    op.create_table('feedback',
    sa.Column('id', sa.Integer(), autoincrement=True, nullable=False),
    sa.Column('prediction', sa.String(), nullable=False),
    sa.Column('who', sa.String(), nullable=False),
    sa.Column('verdict', sa.String(), nullable=False),
    sa.Column('grade', sa.Integer(), nullable=True),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('at', TIME, nullable=False),
    sa.ForeignKeyConstraint(['prediction'], ['prediction.id'], name='fk_feedback_prediction'),
    sa.PrimaryKeyConstraint('id', name='pk_feedback')
    )
    op.create_index('ix_feedback_prediction', 'feedback', ['prediction'], unique=False)
    op.create_table('review',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('prediction', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=False),
    sa.Column('probability', sa.Double(), nullable=False),
    sa.Column('queued', TIME, nullable=False),
    sa.Column('leased_by', sa.String(), nullable=False),
    sa.Column('leased_until', TIME, nullable=True),
    sa.Column('done', TIME, nullable=True),
    sa.Column('done_by', sa.String(), nullable=False),
    sa.Column('result', sa.JSON(), nullable=False),
    sa.ForeignKeyConstraint(['prediction'], ['prediction.id'], name='fk_review_prediction'),
    sa.PrimaryKeyConstraint('id', name='pk_review')
    )
    op.create_index('ix_review_prediction', 'review', ['prediction'], unique=False)
    op.create_index('ix_review_queued', 'review', ['queued'], unique=False)
    if op.get_bind().dialect.name == 'postgresql':
        for table, columns in EMPTIED.items():
            for c in columns: op.execute(f'ALTER TABLE "{table}" ALTER COLUMN "{c}" SET STATISTICS 0')

def downgrade():
    for table in ('review', 'feedback', 'alert', 'prediction', 'image', 'deployment', 'subject', 'setting', 'request', 'key', 'bundle', 'audit'):
        op.drop_table(table)
