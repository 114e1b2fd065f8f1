"A DICOM file of an RGB photograph, with any tags"
import io

import pydicom

def rgb_dicom(a, # uint8 (h, w, 3)
              **tags # by pydicom's keywords, such as PatientName='Doe^Jane'
             )->bytes:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds = pydicom.dataset.Dataset()
    ds.file_meta = meta
    ds.Rows, ds.Columns = a.shape[:2]
    ds.SamplesPerPixel, ds.PlanarConfiguration, ds.PhotometricInterpretation = 3, 0, 'RGB'
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = a.tobytes()
    ds.SOPClassUID, ds.SOPInstanceUID = '1.2.840.10008.5.1.4.1.1.77.1.5.1', '1.2.3'  # ophthalmic photography, 8 bit
    for k,v in tags.items(): setattr(ds, k, v)
    b = io.BytesIO()
    ds.save_as(b, enforce_file_format=True)
    return b.getvalue()
