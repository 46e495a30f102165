//go:build !faults

package fault

// At passes a point.
func At(Point, int64) {}

// During passes a point while what follows goes on.
func During(Point, int64) {}
