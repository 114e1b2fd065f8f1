"DICOM files made by the tests, with any tags"
import io

import pydicom

def dicom_bytes(a, # stored values: (h, w), (h, w, 3), or (frames, h, w)
                photometric='MONOCHROME2', # or MONOCHROME1, PALETTE COLOR, RGB, YBR_FULL
                bits=None, # bits stored; by default all that are allocated
                **tags # by pydicom's keywords, such as PatientName='Doe^Jane'
               )->bytes:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds = pydicom.dataset.Dataset()
    ds.file_meta = meta
    colour = photometric in ('RGB', 'YBR_FULL')
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3 if colour else 1, photometric
    if colour: ds.PlanarConfiguration = 0
    if a.ndim == 3 + colour: ds.NumberOfFrames = len(a)
    ds.Rows, ds.Columns = a.shape[-3:-1] if colour else a.shape[-2:]
    ds.BitsAllocated = 8*a.dtype.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(a.dtype.kind == 'i')
    ds.PixelData = a.tobytes()
    ds.SOPClassUID, ds.SOPInstanceUID = '1.2.840.10008.5.1.4.1.1.77.1.5.1', '1.2.3'  # ophthalmic photography, 8 bit
    for k,v in tags.items(): setattr(ds, k, v)
    b = io.BytesIO()
    ds.save_as(b, enforce_file_format=True)
    return b.getvalue()

def rgb_dicom(a, # uint8 (h, w, 3)
              **tags # by pydicom's keywords
             )->bytes:
    return dicom_bytes(a, 'RGB', **tags)
