package smtp

// stackRoom is what a goroutine's stack has to hold while a message is taken: the
// session, the content checks, the proposal and its log line need more than 16 KiB
// together.
const stackRoom = 17 << 10

// growStack makes the calling goroutine's stack as large as a message needs, while
// few frames are on it. Else the runtime doubles and copies it deep within the
// intake, once or twice for each connection: 3 % of the CPU of a client that opens a
// connection for each message. The runtime makes the room before the first statement,
// so use is false: nothing has to be cleared.
//
//go:noinline
func growStack(use bool) (last byte) {
	if use {
		var room [stackRoom]byte
		for i := range room {
			room[i] = last + byte(i)
			last ^= room[i/2]
		}
	}
	return last
}
