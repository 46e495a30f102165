package spec

import (
	"fmt"
	"math"
)

// The kinds of rotary scaling.
const (
	RopeLinear = "linear" // all frequencies divided by Factor
	RopeLlama3 = "llama3" // low frequencies divided by Factor, high ones kept, a ramp between
)

// RopeScaling stretches the rotary positions beyond the length that a model was first
// trained for.
type RopeScaling struct {
	Type   string  // RopeLinear or RopeLlama3
	Factor float64 // >= 1

	// Of RopeLlama3 only. A wavelength is low when above OriginalMaxPositions/LowFreqFactor,
	// high when below OriginalMaxPositions/HighFreqFactor.
	LowFreqFactor        float64
	HighFreqFactor       float64 // > LowFreqFactor
	OriginalMaxPositions int
}

func (s RopeScaling) faults() faults {
	var all faults
	fault := func(format string, args ...any) {
		all = append(all, fmt.Errorf("rope_scaling: "+format, args...))
	}
	if s.Type != RopeLinear && s.Type != RopeLlama3 {
		all = append(all, fmt.Errorf("%w: rope_scaling: rope_type %q: want one of %s, %s", ErrUnsupported, s.Type, RopeLinear, RopeLlama3))
		return all
	}
	if !(s.Factor >= 1 && s.Factor <= math.MaxFloat32) {
		fault("factor: %v: want a number of at least 1", s.Factor)
	}
	if s.Type == RopeLinear {
		return all
	}
	if !(s.LowFreqFactor > 0 && s.LowFreqFactor <= math.MaxFloat32) {
		fault("low_freq_factor: %v: want a number above 0", s.LowFreqFactor)
	}
	if !(s.HighFreqFactor > s.LowFreqFactor && s.HighFreqFactor <= math.MaxFloat32) {
		fault("high_freq_factor: %v: want a number above low_freq_factor, %v", s.HighFreqFactor, s.LowFreqFactor)
	}
	if s.OriginalMaxPositions < 1 || s.OriginalMaxPositions > maxPositions {
		fault("original_max_position_embeddings: %d: want 1 to %d", s.OriginalMaxPositions, maxPositions)
	}
	return all
}

// InvFreq is the rotary frequencies in radians per token, [K/2] f32: pair i of a head,
// elements i and i+K/2, turns by position*InvFreq()[i]. Neither scaling multiplies
// cosines and sines by a factor.
//
// Every operation is rounded to f32 in transformers' order, so that a model made there
// sees the same angles; the power alone is taken in float64 and rounded once, which
// differs from torch's vectorised power by at most one unit in the last place.
//
// Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2; transformers,
// modeling_rope_utils.py, _compute_linear_scaling_rope_parameters and _compute_llama3_parameters.
func (c Config) InvFreq() []float32 {
	freq := make([]float32, c.HeadWidth/2)
	base := float64(float32(c.RopeTheta))
	for i := range freq {
		exponent := float32(2*i) / float32(c.HeadWidth)
		freq[i] = 1 / float32(math.Pow(base, float64(exponent)))
	}
	if c.RopeScaling == nil {
		return freq
	}
	for i, f := range freq {
		if c.RopeScaling.Type == RopeLinear {
			freq[i] = f / float32(c.RopeScaling.Factor)
		} else {
			freq[i] = c.RopeScaling.llama3(f)
		}
	}
	return freq
}

// llama3 scales one frequency. The conversions to float32 keep each product and sum a
// separate rounding: without them a compiler may fuse them on some machines.
func (s RopeScaling) llama3(f float32) float32 {
	factor, low := float32(s.Factor), float32(s.LowFreqFactor)
	context := float64(s.OriginalMaxPositions)
	lowWavelen, highWavelen := float32(context/s.LowFreqFactor), float32(context/s.HighFreqFactor)

	wavelen := float32(1/f) * float32(2*math.Pi) // torch divides a number by a tensor as reciprocal, then product
	switch {
	case wavelen < highWavelen:
		return f
	case wavelen > lowWavelen:
		return f / factor
	}
	smooth := float32(float32(float32(1/wavelen)*float32(context))-low) / float32(s.HighFreqFactor-s.LowFreqFactor)
	return float32(float32(float32(1-smooth)*f)/factor) + float32(smooth*f)
}
