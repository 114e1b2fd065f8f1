# Written by `make prepare` from the face of retina_nb.image: edit its notebook.
from .pixels import brightest as brightest
from .jpeg import decode_jpeg as decode_jpeg
from .damage import png_damage as png_damage
from .damage import tiff_damage as tiff_damage
from .dicom import dicom_tags as dicom_tags
from .dicom import is_dicom as is_dicom
from .archive import npz_array as npz_array
from .archive import npz_header as npz_header
from .read import IMAGE_TYPES as IMAGE_TYPES
from .read import image_size as image_size
from .read import is_image_file as is_image_file
from .read import read_image as read_image
from .read import sha256 as sha256
from .hashes import hash_distance as hash_distance
from .hashes import mirror_hash as mirror_hash
from .hashes import near_duplicates as near_duplicates
from .hashes import phash as phash
from .deidentified import deidentify as deidentify
from .field import Field as Field
from .field import Frame as Frame
from .field import find_field as find_field
from .field import resize as resize
from .contrast import ben_graham as ben_graham
from .contrast import clahe as clahe
from .preprocess import Preprocess as Preprocess
from .preprocess import cache_note as cache_note
from .quality import LIMITS as LIMITS
from .quality import Limit as Limit
from .quality import Quality as Quality
from .quality import image_quality as image_quality
from .quality import quality_measures as quality_measures
from .quality import quality_points as quality_points
from .quality import quality_table as quality_table
from .gradable import ungradable as ungradable

__all__ = ['brightest', 'decode_jpeg', 'png_damage', 'tiff_damage', 'dicom_tags', 'is_dicom', 'npz_array', 'npz_header', 'IMAGE_TYPES', 'image_size', 'is_image_file', 'read_image', 'sha256', 'hash_distance', 'mirror_hash', 'near_duplicates', 'phash', 'deidentify', 'Field', 'Frame', 'find_field', 'resize', 'ben_graham', 'clahe', 'Preprocess', 'cache_note', 'LIMITS', 'Limit', 'Quality', 'image_quality', 'quality_measures', 'quality_points', 'quality_table', 'ungradable']
