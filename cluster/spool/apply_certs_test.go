package spool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func TestCerts(t *testing.T) {
	r := newReplica(t)
	put := func(name, data string, token bool) pb.Code {
		return r.do(spool.KindPutCert, &pb.PutCert{Name: name, Data: []byte(data), Token: token}).Code
	}
	require.Equal(t, pb.Code_OK, put("mx.example.test", "one", false))
	require.Equal(t, pb.Code_OK, put("mx.example.test", "two", false))
	require.Equal(t, pb.Code_OK, put("mx.example.test+token", "t", true))
	require.Equal(t, pb.Code_INVALID, put("", "x", false))
	require.Equal(t, pb.Code_INVALID, put("x", string(make([]byte, 1<<17)), false))
	require.Equal(t, pb.Code_MISSING, put("x", "", false))
	c, ok, err := r.view().Cert("mx.example.test")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "two", string(c.Data))

	r.now = r.now.Add(25 * time.Hour)
	r.do(spool.KindSweep, &pb.Sweep{Limit: 10})
	_, ok, _ = r.view().Cert("mx.example.test+token")
	require.False(t, ok, "challenges do not stay")
	_, ok, _ = r.view().Cert("mx.example.test")
	require.True(t, ok)
	require.Equal(t, pb.Code_OK, put("mx.example.test", "", false))
	require.Zero(t, r.counter("certs.records"))
	for i := range 2000 {
		require.Equal(t, pb.Code_OK, put(fmt.Sprint(i), "x", false))
	}
	require.Equal(t, pb.Code_INVALID, put("one more", "x", false))
	require.Equal(t, pb.Code_OK, put("7", "y", false))
	audit := 0
	err = r.store.Scan([]byte("t"), []byte("u"), func(_, _ []byte) bool { audit++; return true })
	require.NoError(t, err)
	require.Zero(t, audit, "keys stand in no log")
}
