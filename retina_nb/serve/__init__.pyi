# Written by `make prepare` from the face of retina_nb.serve: edit its notebook.
from .schema import METADATA as METADATA
from .schema import Moment as Moment
from .schema import REASONS as REASONS
from .schema import ROLES as ROLES
from .engine import Conflict as Conflict
from .engine import NewerStore as NewerStore
from .engine import ReadOnlyStore as ReadOnlyStore
from .engine import StoreBusy as StoreBusy
from .engine import StoreError as StoreError
from .engine import StoreFull as StoreFull
from .engine import migrate as migrate
from .engine import open_engine as open_engine
from .engine import store_url as store_url
from .audit import Event as Event
from .audit import check_audit as check_audit
from .kept import PictureFolder as PictureFolder
from .kept import get_picture as get_picture
from .kept import picture_kind as picture_kind
from .kept import put_picture as put_picture
from .photos import Photo as Photo
from .photos import patient_key as patient_key
from .photos import photo as photo
from .photos import split_tags as split_tags
from .answers import Answer as Answer
from .answers import Prediction as Prediction
from .access import ACCESS as ACCESS
from .access import Visitor as Visitor
from .store import Store as Store
from .store import default_store as default_store
from .replay import Replayed as Replayed
from .replay import replay_store as replay_store
from .export import export_store as export_store
from .export import feedback_table as feedback_table
from .store_commands import retina_store as retina_store

__all__ = ['METADATA', 'Moment', 'REASONS', 'ROLES', 'Conflict', 'NewerStore', 'ReadOnlyStore', 'StoreBusy', 'StoreError', 'StoreFull', 'migrate', 'open_engine', 'store_url', 'Event', 'check_audit', 'PictureFolder', 'get_picture', 'picture_kind', 'put_picture', 'Photo', 'patient_key', 'photo', 'split_tags', 'Answer', 'Prediction', 'ACCESS', 'Visitor', 'Store', 'default_store', 'Replayed', 'replay_store', 'export_store', 'feedback_table', 'retina_store']
