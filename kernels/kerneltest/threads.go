//go:build !race

package kerneltest

// threadCounts ends above the cores of a small machine, where workers do not spin.
var threadCounts = []int{1, 2, 3, 4}
