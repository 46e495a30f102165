package model

import (
	"math"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
)

// optimizer is AdamW over a rig's f32 parameters, with clipping: what train does, for one worker and one leaf a step.
type optimizer struct {
	m, v  []kernels.Buffer
	step  int
	arena *kernels.Arena
}

func newOptimizer(t *testing.T, mach *machine, d *Decoder) *optimizer {
	build := func(a *kernels.Arena) *optimizer {
		o, g := &optimizer{arena: a}, grabber{a: a}
		for _, u := range d.Units() {
			o.m = append(o.m, g.take(kernels.Optimizer, kernels.F32, u.Elems))
			o.v = append(o.v, g.take(kernels.Optimizer, kernels.F32, u.Elems))
		}
		must(t, g.err)
		return o
	}
	arena, err := build(&kernels.Arena{}).arena.Allocate(mach.backend)
	must(t, err)
	return build(arena)
}

// update applies the rig's gradients and returns their norm before clipping.
func (o *optimizer) update(t *testing.T, r *rig, g *golden) float64 {
	a := g.record.AdamW
	var squares float64
	for _, b := range r.grads {
		for _, v := range r.m.read(t, b) {
			squares += float64(v) * float64(v)
		}
	}
	norm := math.Sqrt(squares)
	o.step++
	bias1, bias2 := 1-math.Pow(a.Betas[0], float64(o.step)), 1-math.Pow(a.Betas[1], float64(o.step))
	for i, u := range r.d.Units() {
		for _, tensor := range u.Tensors {
			decay := a.WeightDecay
			if len(tensor.Shape) == 1 {
				decay = 0
			}
			part := func(b kernels.Buffer) kernels.Buffer { return b.Slice(tensor.Offset, tensor.End()) }
			must(t, r.m.stream.Launch(kernels.AdamW{Param: part(r.params32[i]), M: part(o.m[i]), V: part(o.v[i]), Grad: part(r.grads[i]),
				Scalars: kernels.AdamWScalars{
					GradScale: float32(min(1, a.MaxGradNorm/(norm+1e-6))), LearningRate: float32(a.LR),
					Beta1: float32(a.Betas[0]), Beta2: float32(a.Betas[1]),
					OneMinusBeta1: float32(1 - a.Betas[0]), OneMinusBeta2: float32(1 - a.Betas[1]),
					StepSize: float32(a.LR / bias1), InvSqrtBias2: float32(1 / math.Sqrt(bias2)),
					Eps: float32(a.Eps), Decay: float32(1 - a.LR*decay),
				}}))
		}
	}
	return norm
}

// Twenty steps of AdamW, each on a batch of its own, give torch's losses and gradient norms.
func TestAdamWLikeTorch(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape, func(t *testing.T) {
			g := openGolden(t, shape)
			d, err := New(g.cfg, kernels.F32)
			must(t, err)
			m := newMachine(t, 2)
			var in Input
			var dims []int
			in.Tokens, dims = g.ids(t, "adamw.tokens")
			in.Labels, _ = g.ids(t, "adamw.labels")
			in.Positions, _ = g.ids(t, "adamw.positions")
			in.DocStart, _ = g.ids(t, "adamw.doc_start")
			steps, rows := dims[0], dims[1]*dims[2]
			r := newRig(t, m, d, g.unitWeights(t), PassOptions{B: dims[1], T: dims[2], Train: true})
			o := newOptimizer(t, m, d)
			for step := range steps {
				lo, hi := step*rows, (step+1)*rows
				batch := Input{Tokens: in.Tokens[lo:hi], Labels: in.Labels[lo:hi], Positions: in.Positions[lo:hi], DocStart: in.DocStart[lo:hi]}
				counted := 0
				for _, l := range batch.Labels {
					if l >= 0 {
						counted++
					}
				}
				batch.Scale = float32(1 / float64(counted))
				must(t, r.pass.Load(t.Context(), m.stream, batch))
				r.forward(t)
				r.backward(t)
				losses, err := r.pass.Losses(t.Context(), m.stream)
				must(t, err)
				var loss float64
				for _, l := range losses {
					loss += float64(l)
				}
				loss /= float64(counted)
				norm := o.update(t, r, g)
				r.publish(t)
				t.Logf("step %d: loss %v, torch %v", step, loss, g.record.AdamW.Losses[step])
				if want := g.record.AdamW.Losses[step]; !(math.Abs(loss-want) <= 1e-4*want) {
					t.Errorf("step %d: loss %v, want %v", step, loss, want)
				}
				if want := g.record.AdamW.GradNorms[step]; !(math.Abs(norm-want) <= 1e-3*want) {
					t.Errorf("step %d: gradient norm %v, want %v", step, norm, want)
				}
			}
			const last = "model.layers.0.self_attn.k_proj.weight"
			tensor, _ := d.Units()[1].Tensor(last)
			within(t, last+" after the last step", m.read(t, r.params32[1])[tensor.Offset:tensor.End()], g.f32(t, "adamw.param."+last), 1e-3)
			must(t, o.arena.Free())
			r.free(t)
		})
	}
}
