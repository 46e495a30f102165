//go:build race

package kerneltest

// threadCounts are fewer where every access to memory costs ten.
var threadCounts = []int{1, 3}
