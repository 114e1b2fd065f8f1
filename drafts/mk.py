import json, uuid, sys
def cell(kind, src, id=None):
    c = dict(cell_type=kind, id=id or uuid.uuid4().hex[:8], metadata={}, source=src.strip('\n').splitlines(True))
    return c if kind == 'markdown' else dict(c, execution_count=None, outputs=[])
def write(path, text):
    cells = []
    for part in text.split('\n%%%')[1:]:
        kind, _, src = part.partition('\n')
        cells.append(cell('markdown' if kind.strip() == 'md' else 'code', src))
    json.dump(dict(cells=cells, metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')), nbformat=4, nbformat_minor=5), open(path, 'w'), ensure_ascii=False, indent=1)
write(sys.argv[1], '\n'+sys.stdin.read())
