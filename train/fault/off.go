//go:build !faults

package fault

// At passes a point.
func At(Point, int64) {}

// During passes a point while what follows goes on.
func During(Point, int64) {}

// Flips says whether a bit of what is at a point is to be flipped.
func Flips(Point, int64) bool { return false }
