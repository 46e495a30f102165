package kernels

// Shapes: R rows (B sequences of T tokens end to end), D model width, H query
// heads, G key and value heads, K head width, F feed-forward width, V vocabulary.
// Buffers are dense and row-major. "act" is the activation type: f32 or bf16, one
// for a whole job. Kernels compute in f32 (products accumulate in f32) and round
// to nearest even when they store. Sums run in an order that depends on the
// shapes alone, never on thread count, cache size or pointer alignment.

// Access says how an Op uses an argument.
type Access uint8

// How an Op uses an argument.
const (
	Read Access = 1 << iota
	Write
	ReadWrite = Read | Write
)

// Arg is one argument of an Op.
type Arg struct {
	Name   string
	Buf    Buffer
	Access Access
}

// Op is one operation on buffers: plain data. Validate checks lengths and types, so
// that no kernel sees a buffer it would read or write beyond.
type Op interface {
	Name() string
	Args() []Arg
	Validate() error
}

// MatMul is Out[M,N] = A' B' (+ Out when Accumulate), where A' is A[M,K], or A[K,M]
// transposed, and B' is B[K,N], or B[N,K] transposed. A and B have one type; Out is
// f32 or that type. Accumulate needs Out in f32.
type MatMul struct {
	Out, A, B      Buffer
	M, N, K        int
	TransA, TransB bool
	Accumulate     bool
}

// RMSNorm is Y = X / rms(X) * W by rows, Zhang and Sennrich 2019, arXiv:1910.07467.
// With Residual, Sum = X + Residual is stored, rounded to act, and normalised instead
// of X. X, Residual, Sum, Y: [Rows,Cols] act; W: [Cols] act; Rstd: [Rows] f32,
// 1/sqrt(mean(x^2)+Eps), kept for the backward.
type RMSNorm struct {
	Y, Rstd, X, W Buffer
	Residual, Sum Buffer // both or neither; Sum may be X or Residual
	Rows, Cols    int
	Eps           float32
}

// RMSNormBackward is the gradient of RMSNorm. DX = (DAdd if given) + dRMSNorm(DY);
// DX may be DAdd or DY. DW: [Cols] f32, overwritten. X is what was normalised.
type RMSNormBackward struct {
	DX, DW, DY, X, W, Rstd Buffer
	DAdd                   Buffer // optional: the gradient that reaches X by the residual path
	Rows, Cols             int
}

// RoPE rotates, in place, the first Heads heads of every row of X by the row's
// position: the half-split form of Hugging Face's Llama (element i pairs with i+K/2),
// Su et al. 2021, arXiv:2104.09864. X: [Rows,Stride] act; Pos: [Rows] i32; Cos, Sin:
// [positions, K/2] f32. Inverse rotates back, which is the backward.
type RoPE struct {
	X, Pos, Cos, Sin             Buffer
	Rows, Stride, Heads, HeadDim int
	Inverse                      bool
}

// Attention is causal softmax attention with grouped query heads over packed
// documents, tiled so that no [T,T] matrix is stored (Dao 2023, arXiv:2307.08691).
// A token attends to the tokens from DocStart (index in its own sequence) to itself,
// and no further back than Window tokens when Window > 0 (itself included).
// QKV: [B*T, (H+2G)*K] act, queries, then keys, then values; Out: [B*T, H*K] act;
// LSE: [B,H,T] f32, log-sum-exp of the scaled scores; DocStart: [B*T] i32.
type Attention struct {
	Out, LSE, QKV, DocStart       Buffer
	B, T, Heads, KVHeads, HeadDim int
	Window                        int
	Scale                         float32
}

// AttentionBackward is the gradient of Attention. DQKV: [B*T,(H+2G)*K] act,
// overwritten; Delta: [B,H,T] f32, workspace for rowsum(DOut*Out).
type AttentionBackward struct {
	DQKV, Delta, DOut, Out, LSE, QKV, DocStart Buffer
	B, T, Heads, KVHeads, HeadDim              int
	Window                                     int
	Scale                                      float32
}

// CachedAttention extends a key/value cache by N new tokens and attends over all of it:
// for generation. QKV: [N,(H+2G)*K] act, rotated already; Keys, Values: [Max, G*K] act,
// rows [Past,Past+N) are written; Out: [N, H*K] act.
type CachedAttention struct {
	Out, QKV, Keys, Values           Buffer
	N, Past, Heads, KVHeads, HeadDim int
	Window                           int
	Scale                            float32
}

// SwiGLU is Y = silu(gate) * up, Shazeer 2020, arXiv:2002.05202. GateUp: [Rows, 2*F] act,
// gate then up in each row; Y: [Rows, F] act.
type SwiGLU struct {
	Y, GateUp Buffer
	Rows, F   int
}

// SwiGLUBackward is the gradient of SwiGLU. DGateUp: [Rows,2*F] act, overwritten, and may be
// GateUp; DY: [Rows,F] act.
type SwiGLUBackward struct {
	DGateUp, DY, GateUp Buffer
	Rows, F             int
}

// Embedding is Y[r] = Table[IDs[r]]. Table: [V,D] act; IDs: [Rows] i32; Y: [Rows,D] act.
// An id outside [0,V) is an error, returned and not computed with.
type Embedding struct {
	Y, Table, IDs Buffer
	Rows, V, D    int
}

// EmbeddingBackward is DTable[IDs[r]] += DY[r] for r = 0, 1, 2 ... in that order.
// DTable: [V,D] f32, accumulated onto; DY: [Rows,D] act.
type EmbeddingBackward struct {
	DTable, DY, IDs Buffer
	Rows, V, D      int
}

// CrossEntropy gives each row's loss, -log softmax(Logits)[label], and, when DLogits is
// given, Scale times its gradient. A label of -1 gives loss 0 and gradient 0.
// Logits: [Rows,V] f32; Labels: [Rows] i32 in [-1,V); Loss: [Rows] f32, not scaled;
// DLogits: [Rows,V], f32 (it may be Logits) or bf16.
type CrossEntropy struct {
	Loss, DLogits, Logits, Labels Buffer
	Rows, V                       int
	Scale                         float32
}

// Add is Out = A + B, elementwise; Out may be A or B. All act.
type Add struct{ Out, A, B Buffer }

// Convert is Dst = Src rounded to Dst's type, to nearest even; f32, bf16 or f16 to any of them, and f32 or bf16 to Int8 and back.
type Convert struct{ Dst, Src Buffer }

// Fill sets every element of Dst, f32 or bf16, to Value.
type Fill struct {
	Dst   Buffer
	Value float32
}

// Accumulate is Acc += Src: one leaf onto the fold's accumulator. Acc: f32; Src: f32, bf16 or Int8.
type Accumulate struct{ Acc, Src Buffer }

// BlockSumSquares is Out[b] = the sum of squares of X's b-th 256 elements, in float64: element 0 + 1 + 2 ...
// in eight interleaved chains that are then added as ((0+1)+(2+3))+((4+5)+(6+7)). Squares are
// exact in float64. X: [n] f32; Out: [ceil(n/256)] f64. A block with an Inf or a NaN gives one.
type BlockSumSquares struct{ Out, X Buffer }

// AdamWScalars are a step's scalars, each computed once in float64 and rounded once.
type AdamWScalars struct {
	GradScale                    float32 // what turns the folded sum into the clipped mean
	LearningRate                 float32
	Beta1, Beta2                 float32
	OneMinusBeta1, OneMinusBeta2 float32
	// StepSize is LearningRate / (1 - Beta1^t); InvSqrtBias2 is 1 / sqrt(1 - Beta2^t); t is the optimizer step, 1 for the first.
	StepSize, InvSqrtBias2 float32
	Eps                    float32
	// Decay is 1 - LearningRate * weight decay.
	Decay float32
}

// AdamW updates one range in place, with decoupled decay: Loshchilov and Hutter 2019,
// arXiv:1711.05101, algorithm 2, in torch.optim.AdamW's order of operations:
//
//	g = Grad * GradScale
//	m = m*Beta1 + g*OneMinusBeta1
//	v = v*Beta2 + (g*g)*OneMinusBeta2
//	p = p*Decay - StepSize * (m / (sqrt(v)*InvSqrtBias2 + Eps))
//
// each operation rounded to f32 on its own, no contraction: the same bits on every path.
// Param, M, V, Grad: [n] f32. Out, when given, is [n] f32 or bf16: the new parameter,
// rounded to the wire's format.
type AdamW struct {
	Param, M, V, Grad Buffer
	Out               Buffer
	Scalars           AdamWScalars
}
