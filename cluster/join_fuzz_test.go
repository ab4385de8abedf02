package cluster

import (
	"bytes"
	"testing"
)

func FuzzJoinRequest(f *testing.F) {
	var b bytes.Buffer
	_ = writeJSON(&b, joinRequest{Node: "n1"})
	f.Add(b.Bytes())
	f.Add([]byte{0, 0, 0, 5, '{'})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r joinRequest
		_ = readJSON(bytes.NewReader(raw), &r)
	})
}
