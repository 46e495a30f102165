package shard

// Buddy is the rank that keeps a replica of rank r's shard, of world ranks: the next one. Planners give ranks so that
// neighbours stand on different hosts.
func Buddy(r, world int) int { return (r + 1) % world }

// Ward is the rank whose replica rank r keeps: r is its Buddy.
func Ward(r, world int) int { return (r - 1 + world) % world }
