package kernels

// Sampler is an Op some of whose arguments do not take every number. Sample turns random
// bits into a value that element i of the named argument may have. Fingerprint and the
// conformance suite fill the arguments of every other Op from [-1, 1).
type Sampler interface {
	Sample(arg string, i int, r uint64) float64
}

// mix is the splitmix64 finaliser (Steele, Lea and Flood 2014) of a counter: the random
// bits of element i of stream seed.
func mix(seed, i uint64) uint64 {
	z := seed*0xd1342543de82ef95 + (i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// uniform is in [-1, 1), a multiple of 2^-23: exact in f32.
func uniform(r uint64) float64 { return float64(int64(r>>40)-1<<23) / (1 << 23) }
