//go:build race

package engine

func init() { budgetWorld = 12 } // sixty-four take the race detector minutes
