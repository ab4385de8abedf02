package porttest

import "testing"

// Held is how many ports tests of this process hold.
func Held() (n int) {
	p := process()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.blocks {
		for _, held := range b.held {
			if held {
				n++
			}
		}
	}
	return n
}

// TakeBehind takes n ports from a pool whose first block has none that are free.
func TakeBehind(t testing.TB, base, n int) int {
	full := &ports{base: base, next: 1}
	full.hold(0, block, true)
	p := &pool{own: func() *ports {
		if full == nil {
			b := own()
			if b != nil {
				t.Cleanup(func() { _ = b.guard.Close() })
			}
			return b
		}
		b := full
		full = nil
		return b
	}}
	return p.take(t, "127.0.0.1", n)
}
