"A small grading model, and operators with random inputs to compare the sizes that are worked out with the runtime's"
import numpy as np
from onnx import TensorProto as T, helper as h

def small_model():
    "A model of a few hundred bytes in the form of a grading model, to be changed; `z` depends on the photograph"
    node = h.make_node
    image = h.make_tensor_value_info('image', T.UINT8, ['n', 64, 64, 3])
    out = h.make_tensor_value_info('probabilities', T.FLOAT, ['n', 5])
    nodes = [node('Cast', ['image'], ['x'], to=T.FLOAT), node('ReduceMean', ['x', 'axes'], ['mean'], keepdims=0), node('Unsqueeze', ['mean', 'one'], ['m']),
             node('MatMul', ['m', 'w'], ['z']), node('Softmax', ['z'], ['probabilities'], axis=1)]
    weights = [h.make_tensor('axes', T.INT64, [3], [1, 2, 3]), h.make_tensor('one', T.INT64, [1], [1]), h.make_tensor('w', T.FLOAT, [1, 5], [.1]*5)]
    return h.make_model(h.make_graph(nodes, 'g', [image], [out], weights), opset_imports=[h.make_opsetid('', 18)], ir_version=10)

OPERATORS = 'Conv ConvTranspose MaxPool AveragePool Resize Pad Tile Expand Reshape Split TopK DepthToSpace SpaceToDepth Slice Gather GatherND ScatterND Flatten Range Concat Squeeze Unsqueeze MatMul Gemm ReduceMax ArgMax ConstantOfShape Trilu GatherElements Where Shape LRN CumSum'.split()

def ones(*s): return np.ones(s,'f')
def whole(*v): return np.array(v,np.int64)
def operator(r):
    "One operator with random inputs and settings, some of which no runtime takes: name, inputs, settings, number of outputs"
    def pic(): return ones(r.choice((1,2)),r.choice((1,2,4)),r.randrange(1,12),r.randrange(1,12))
    def pads(): return [r.choice((0,0,1,2,3)) for _ in range(4)]
    op=r.choice(OPERATORS)
    at={}; n=1; x=pic(); ins=[x]
    k=[r.randrange(1,5),r.randrange(1,5)]
    if op in('Conv','ConvTranspose','MaxPool','AveragePool'):
        if r.random()<.7: at['strides']=[r.randrange(1,4),r.randrange(1,4)]
        if r.random()<.5: at['dilations']=[r.randrange(1,4),r.randrange(1,4)]
        if r.random()<.4: at['auto_pad']=r.choice(('SAME_UPPER','SAME_LOWER','VALID','NOTSET'))
        if r.random()<.6 and at.get('auto_pad','NOTSET')=='NOTSET': at['pads']=pads()
        if 'Pool' in op: at['kernel_shape']=k; at['ceil_mode']=r.choice((0,1))
        else:
            if r.random()<.7: at['kernel_shape']=k
            c=x.shape[1]; g=r.choice((1,c)); at['group']=g
            ins.append(ones(3*g,c//g,*k) if op=='Conv' else ones(c,2,*k))
            if op=='ConvTranspose':
                if r.random()<.4: at['output_padding']=[r.randrange(0,3),r.randrange(0,3)]
                if r.random()<.3: at['output_shape']=[r.randrange(1,40),r.randrange(1,40)]
    elif op=='Resize':
        at['mode']=r.choice(('nearest','linear','cubic')); at['coordinate_transformation_mode']=r.choice(('half_pixel','asymmetric','align_corners','pytorch_half_pixel','tf_crop_and_resize'))
        axes=None
        if r.random()<.4: axes=r.sample([2,3],r.randrange(1,3)); axes=[q-r.choice((0,4)) for q in axes]; at['axes']=axes
        if r.random()<.3: at['antialias']=1
        m=len(axes) if axes else 4
        roi=np.array([0.]*m+[r.choice((1.,.5,2.))]*m,'f') if at['coordinate_transformation_mode']=='tf_crop_and_resize' else None
        if r.random()<.5: sc=np.array(([1.,1.] if m==4 else [])+[r.choice((.3,.5,1.,1.7,2.,3.5)) for _ in range(m if m<4 else 2)],'f'); ins=[x,roi,sc]
        else:
            sz=([x.shape[0],x.shape[1]] if m==4 else [])+[r.randrange(1,20) for _ in range(m if m<4 else 2)]; ins=[x,roi,None,whole(*sz)]
            if r.random()<.5: at['keep_aspect_ratio_policy']=r.choice(('stretch','not_larger','not_smaller'))
    elif op=='Pad':
        at['mode']=r.choice(('constant','reflect','edge','wrap'))
        if r.random()<.5: ax=r.sample(range(4),r.randrange(1,4)); ins=[x,whole(*[r.randrange(-3,4) for _ in range(2*len(ax))]),None,whole(*[q-r.choice((0,4)) for q in ax])]
        else: ins=[x,whole(*[r.randrange(-3,4) for _ in range(8)])]
    elif op=='Tile': ins=[x,whole(*[r.choice((0,1,1,2,3)) for _ in range(4)])]
    elif op=='Expand': ins=[ones(*[r.choice((1,s)) for s in x.shape][r.randrange(0,4):]),whole(*[r.choice((1,s)) for s in x.shape])]
    elif op=='Reshape':
        s=[r.choice((0,-1,1,2,q)) for q in x.shape][:r.randrange(1,5)]; ins=[x,whole(*s)]; at['allowzero']=r.choice((0,0,1))
    elif op=='Split':
        ax=r.randrange(-4,4); at['axis']=ax; d=x.shape[ax]; n=r.randrange(1,4)
        if r.random()<.5: at['num_outputs']=n
        else: a=[r.randrange(0,d+1) for _ in range(n-1)]; ins=[x,whole(*a,d-sum(a))]
    elif op=='TopK': ins=[x,whole(r.randrange(0,6))]; at['axis']=r.randrange(-4,4); n=2
    elif op in('DepthToSpace','SpaceToDepth'): at['blocksize']=r.choice((1,2,3))
    elif op=='Slice':
        ax=r.sample(range(4),r.randrange(1,4)); far=(-2**63,-9,-2,-1,0,1,2,5,99,2**31-1,2**63-1)
        ins=[x,whole(*[r.choice(far) for _ in ax]),whole(*[r.choice(far) for _ in ax]),whole(*[q-r.choice((0,4)) for q in ax]),whole(*[r.choice((-3,-1,1,2)) for _ in ax])]
    elif op=='Gather': ins=[x,np.zeros([2]*r.randrange(0,3),np.int64)]; at['axis']=r.randrange(-4,4)
    elif op=='GatherND': b=r.randrange(0,2); at['batch_dims']=b; ins=[x,np.zeros(([x.shape[0]] if b else [])+[3,r.randrange(1,4)],np.int64)]
    elif op=='ScatterND': ins=[x,np.zeros((2,1),np.int64),ones(2,*x.shape[1:])]
    elif op=='Flatten': at['axis']=r.randrange(-4,5)
    elif op=='Range':
        if r.random()<.5: ins=[np.array(v,np.int64) for v in (r.randrange(-9,9),r.randrange(-9,9),r.choice((-3,-1,1,2)))]
        else: ins=[np.array(v,'f') for v in (r.uniform(-9,9),r.uniform(-9,9),r.choice((-.3,-1.,.1,2.)))]
    elif op=='Concat': ins=[x]*r.randrange(1,4); at['axis']=r.randrange(-4,4)
    elif op=='Squeeze': x=ones(1,3,1,2); ins=[x]+([whole(*r.choice(([0],[2],[-2],[0,2],[-4]))) ] if r.random()<.7 else [])
    elif op=='Unsqueeze': ins=[x,whole(*r.sample(range(-6,6),r.randrange(1,3)))]
    elif op=='MatMul': a=r.randrange(1,4); ins=[ones(*[[a],[2,a],[3,2,a],[1,2,a]][r.randrange(4)]),ones(*[[a],[a,5],[3,a,5]][r.randrange(3)])]
    elif op=='Gemm': ta,tb=r.choice((0,1)),r.choice((0,1)); at=dict(transA=ta,transB=tb); ins=[ones(*((2,3)[::-1] if ta else (2,3))),ones(*((3,4)[::-1] if tb else (3,4)))]
    elif op=='ReduceMax': at=dict(keepdims=r.choice((0,1)),noop_with_empty_axes=r.choice((0,1))); ins=[x]+([whole(*r.sample(range(-4,0),r.randrange(0,4)))] if r.random()<.7 else [])
    elif op=='ArgMax': at=dict(keepdims=r.choice((0,1)),axis=r.randrange(-4,4))
    elif op=='ConstantOfShape': ins=[whole(*[r.randrange(0,4) for _ in range(r.randrange(0,4))])]
    elif op=='Trilu': pass
    elif op=='GatherElements': ins=[x,np.zeros([1,1,1,5],np.int64)]; at['axis']=3
    elif op=='Where': ins=[np.ones([1]*r.randrange(0,3),bool),x,ones(*[r.choice((1,s)) for s in x.shape])]
    elif op=='Shape': at=dict(start=r.randrange(-6,6),end=r.randrange(-6,6))
    elif op=='LRN': at=dict(size=r.choice((1,3,5)))
    elif op=='CumSum': ins=[x,np.array(r.randrange(-4,4),np.int64)]
    return op,ins,at,n
