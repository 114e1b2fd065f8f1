"Finding files and telling which are the same"
from pictures import idrid, load
from retina_nb.data import content_keys
from retina_nb.data.files import list_files

def test_links_are_followed_and_loops_are_not(tmp_path):
    real = idrid(tmp_path/'real')
    (tmp_path/'set').mkdir()
    (tmp_path/'set'/'linked').symlink_to(real)
    (real/'back').symlink_to(tmp_path/'set')
    assert len(load(tmp_path/'set')) == 4
    assert len(list_files(tmp_path/'set')) == 6

def test_content_keys_only_join_equal_bytes(tmp_path):
    for n,b in (('a', b'12'), ('b', b'21'), ('c', b'12'), ('d', b''), ('e', b'')): (tmp_path/n).write_bytes(b)
    k = content_keys([str(tmp_path/n) for n in 'abcdex'])
    assert k[0] == k[2] != '' and list(k[[1, 3, 4, 5]]) == ['']*4

