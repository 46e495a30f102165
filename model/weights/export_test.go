package weights

import (
	"context"

	"github.com/zerofleet/zerofleet/model/spec"
)

// Normal is draw i of the stream of (seed, name).
func Normal(seed uint64, name string, i uint64) float64 { return newStream(seed, name).normal(i) }

// Quantile is the quantile at (k + 1/2) / 2^52.
var Quantile = quantile

// Logarithm is the generator's own.
var Logarithm = logarithm

// SaveInShards is Save with another limit than 5 GB.
func SaveInShards(ctx context.Context, dir string, c spec.Config, dtype string, read ReadFunc, extra []Extra, shardBytes int64) error {
	return save(ctx, dir, c, dtype, read, extra, shardBytes)
}
