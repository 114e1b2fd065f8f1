"One reader for every table: dialects, shifts, what is no table"
import os

import numpy as np
import pandas as pd
import pytest

from retina_nb.core import DataError, RunError, read_cells, read_labels_csv, read_table
from retina_nb.disk import write_table
from retina_nb.sheets import csv_header, separator_of

GOOD = [['a.png', '0'], ['b.png', '1'], ['c.png', '4']]
def plain(sep=','): return sep.join(['image', 'level']) + '\n' + ''.join(sep.join(r) + '\n' for r in GOOD)

@pytest.mark.parametrize('text', [plain(), plain(';'), plain('\t'), plain('|'), 'sep=;\n' + plain(';'), '\ufeff' + plain(), plain().replace('\n', '\r\n'), plain().replace('\n', '\n\n'),
    plain().replace('\n', ',\n'), plain().replace('\n', ',\n').replace(',\n', '\n', 1), plain().replace('\n', ',\n', 1), plain().replace('\n', ',,,\n'), 'A title\n' + plain(), 'A title,,\n\n' + plain(),
    '# remark\n# another\n' + plain(), ',image,level\n0,a.png,0\n1,b.png,1\n2,c.png,4\n', 'Unnamed: 0,image,level\n0,a.png,0\n1,b.png,1\n2,c.png,4\n', 'image,level\n1,a.png,0\n2,b.png,1\n3,c.png,4\n',
    '"","image","level"\n"1","a.png","0"\n"2","b.png","1"\n"3","c.png","4"\n', ' image , level \n a.png , 0\nb.png,1 \nc.png,4'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'utf-16-le', 'utf-16-be'])
def test_one_table_in_many_dresses(tmp_path, text, encoding):
    f = tmp_path/'t.csv'; f.write_bytes(text.encode(encoding))
    df,lines,odd = read_labels_csv(f)
    assert df.values.tolist() == GOOD and list(df.columns) == csv_header(f) == ['image', 'level'] and not odd
    assert [text.replace('\r\n', '\n').split('\n')[l-1].split(df.image[i])[0].count('png') for i,l in enumerate(lines)] == [0]*3, 'lines are those of the file'
    assert read_table(f).level.tolist() == [0, 1, 4]

def test_a_row_that_nothing_explains(tmp_path):
    f = tmp_path/'t.csv'; f.write_text('image,level\na,0\nb\nc,1,x\n')
    assert read_labels_csv(f)[2] == {3: 'has 1 cell where the header has 2', 4: 'has 3 cells where the header has 2'}
    with pytest.raises(RunError, match='row 3: has 1 cell'): read_table(f, RunError)
    f.write_text('image,level\n5,a,0\n9,b,1\n') # not an index
    assert len(read_labels_csv(f)[2]) == 2

def test_a_first_row_of_numbers_is_no_title(tmp_path):
    f = tmp_path/'t.csv'; f.write_text('image\na.png,0\nb.png,1\n')
    assert csv_header(f) == ['image'] and len(read_labels_csv(f)[2]) == 2

def test_types_and_names_come_back(tmp_path):
    t = pd.DataFrame(dict(patient=['007', None, '12'], p=[1/3, np.nan, 1e-300], n=[1, 2, 3], b=[True, False, True], note=['=1', 'x,y', 'a\nb']))
    got = read_table(write_table(tmp_path/'t.csv', t))
    assert got.patient.tolist()[::2] == ['007', '12'] and got.patient.isna()[1] and np.allclose(got.p, t.p, equal_nan=True, rtol=1e-15) and got.n.tolist() == [1, 2, 3] and got.b.dtype == bool and got.note.tolist() == t.note.tolist()

NO = {'workbook': (b'PK\x03\x04 xl/workbook.xml', 'Excel workbook'), 'old workbook': (b'\xd0\xcf\x11\xe0 x', 'old Excel'), 'page': (b' <!DOCTYPE html>', 'web page'), 'packed': (b'\x1f\x8b\x08', 'compressed'),
      'pdf': (b'%PDF-1.4', 'PDF'), 'zero byte': (b'a,b\n1,\0\n2,3\n', 'row 2: holds a zero byte'), 'latin': (b'a,b\nM\xfcller,1\n', 'row 2: is not UTF-8'), 'empty': (b' \n', 'is empty'),
      'quote': (b'a,b\n"1,2\n', 'row 2: cannot be read'), 'twice': (b'a,A\n1,2\n', "two columns are called 'a'"), 'pointer': (b'version https://git-lfs.github.com\n', 'git lfs pull')}

@pytest.mark.parametrize('kind', NO)
def test_no_table(tmp_path, kind):
    data,says = NO[kind]
    f = tmp_path/'t.csv'; f.write_bytes(data)
    with pytest.raises(DataError, match=says) as e: read_table(f)
    assert str(f) in str(e.value) and '\n' not in str(e.value)

@pytest.mark.skipif(os.name == 'nt', reason='devices and pipes are other things there')
def test_only_regular_files(tmp_path):
    os.mkfifo(tmp_path/'p.csv')
    for f,says in ((tmp_path/'p.csv', 'is a pipe'), ('/dev/zero', 'is a device'), (tmp_path, 'is a folder'), (tmp_path/'none.csv', 'no such file')):
        with pytest.raises(DataError, match=says): read_cells(f)
        assert csv_header(f) == []

@pytest.mark.parametrize('text,sep', [('a,b\n1;2,3\n', ','), ('a;b\n"x,y";1\n', ';'), ('a\nb\n', ','), ('', ','), ('a;b\n0,5;0,5\n0,1;0,9\n', ';'), ('x|y\n1|2\n', '|')])
def test_separators(text, sep): assert separator_of(text) == sep
