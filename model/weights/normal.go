package weights

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
)

// stream is an endless sequence of normal numbers of which any one can be computed alone:
// draw i depends on (seed, name, i) and on nothing else. The bits are the same on every
// machine: beside integers only +, -, *, / and square root of float64 are used, each
// rounded on its own (the conversions to float64 forbid the compiler to fuse a product and
// a sum), and no function of the math library whose code differs between machines.
//
//	key   = first 8 bytes, little-endian, of SHA-256(seed as 8 bytes little-endian, then name)
//	bits  = mix(key + (i+1)*0x9e3779b97f4a7c15 mod 2^64), SplitMix64's draw i of seed key
//	u     = (floor(bits / 2^12) + 1/2) / 2^52, strictly between 0 and 1
//	draw  = the quantile of the standard normal distribution at u
//
// Sources: Steele, Lea, Flood 2014, OOPSLA, "Fast splittable pseudorandom number
// generators", figure 16 (mix and step); Wichura 1988, Applied Statistics 37(3), algorithm
// AS 241, PPND16 (quantile, within 1e-16 of the true one).
type stream struct{ key uint64 }

func newStream(seed uint64, name string) stream {
	in := binary.LittleEndian.AppendUint64(nil, seed)
	sum := sha256.Sum256(append(in, name...))
	return stream{binary.LittleEndian.Uint64(sum[:])}
}

// normal is draw i.
func (s stream) normal(i uint64) float64 {
	k := mix(s.key+(i+1)*0x9e3779b97f4a7c15) >> 12
	return quantile(k)
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// AS 241's coefficients, lowest power first: the middle in q^2, the tails in r.
var (
	midTop = [8]float64{3.3871328727963666080e0, 1.3314166789178437745e+2, 1.9715909503065514427e+3, 1.3731693765509461125e+4,
		4.5921953931549871457e+4, 6.7265770927008700853e+4, 3.3430575583588128105e+4, 2.5090809287301226727e+3}
	midBottom = [8]float64{1, 4.2313330701600911252e+1, 6.8718700749205790830e+2, 5.3941960214247511077e+3,
		2.1213794301586595867e+4, 3.9307895800092710610e+4, 2.8729085735721942674e+4, 5.2264952788528545610e+3}
	nearTop = [8]float64{1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
		1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4}
	nearBottom = [8]float64{1, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
		1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9}
	farTop = [8]float64{6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
		2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7}
	farBottom = [8]float64{1, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
		7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15}
)

// quantile is where the standard normal distribution reaches (k + 1/2) / 2^52, k < 2^52.
func quantile(k uint64) float64 {
	const unit = 1.0 / (1 << 52)
	q := (float64(int64(k)-1<<51) + 0.5) * unit // exact, as are p and r below
	if math.Abs(q) <= 0.425 {
		r := 0.180625 - float64(q*q)
		return float64(q*polynomial(r, &midTop)) / polynomial(r, &midBottom)
	}
	p := 0.5 - math.Abs(q)
	r := math.Sqrt(-logarithm(p))
	var x float64
	if r <= 5 {
		x = polynomial(r-1.6, &nearTop) / polynomial(r-1.6, &nearBottom)
	} else {
		x = polynomial(r-5, &farTop) / polynomial(r-5, &farBottom)
	}
	if q < 0 {
		return -x
	}
	return x
}

// polynomial is c[0] + c[1]*x + ... + c[7]*x^7 by Horner's rule.
func polynomial(x float64, c *[8]float64) float64 {
	sum := c[7]
	for i := 6; i >= 0; i-- {
		sum = float64(sum*x) + c[i]
	}
	return sum
}

// logarithm is the natural logarithm of a normal number x > 0, within one unit in the last
// place.
//
// Source: FreeBSD, lib/msun/src/e_log.c: x = 2^k * (1+f), sqrt(1/2) < 1+f < sqrt(2), then a
// polynomial in s^2 with s = f/(2+f).
func logarithm(x float64) float64 {
	const (
		ln2Hi = 6.93147180369123816490e-01
		ln2Lo = 1.90821492927058770002e-10
		l1    = 6.666666666666735130e-01
		l2    = 3.999999999940941908e-01
		l3    = 2.857142874366239149e-01
		l4    = 2.222219843214978396e-01
		l5    = 1.818357216161805012e-01
		l6    = 1.531383769920937332e-01
		l7    = 1.479819860511658591e-01
	)
	bits := math.Float64bits(x)
	k := float64(int64(bits>>52) - 1023)
	m := math.Float64frombits(bits&(1<<52-1) | 1023<<52) // [1, 2)
	if m > math.Sqrt2 {
		m /= 2
		k++
	}
	f := m - 1
	s := f / (2 + f)
	s2 := float64(s * s)
	s4 := float64(s2 * s2)
	odd := float64(s2 * (l1 + float64(s4*(l3+float64(s4*(l5+float64(s4*l7)))))))
	even := float64(s4 * (l2 + float64(s4*(l4+float64(s4*l6)))))
	r := odd + even
	half := float64(float64(0.5*f) * f)
	return float64(k*ln2Hi) - ((half - (float64(s*(half+r)) + float64(k*ln2Lo))) - f)
}
