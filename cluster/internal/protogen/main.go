// Command protogen compiles the .proto files of this module with nothing but
// Go: protocompile parses them, and the pinned plug-ins in go.mod write the
// code. Run it through go generate.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	grpc := flag.Bool("grpc", false, "also write the gRPC service code")
	flag.Parse()
	if err := run(context.Background(), *grpc, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, grpc bool, files []string) error {
	c := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{".", ".."}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	linked, err := c.Compile(ctx, files...)
	if err != nil {
		return err
	}
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: files, Parameter: proto.String("paths=source_relative")}
	seen := map[string]bool{}
	var add func(fd *descriptorpb.FileDescriptorProto, deps func(string) *descriptorpb.FileDescriptorProto)
	add = func(fd *descriptorpb.FileDescriptorProto, deps func(string) *descriptorpb.FileDescriptorProto) {
		if fd == nil || seen[fd.GetName()] {
			return
		}
		seen[fd.GetName()] = true
		for _, d := range fd.GetDependency() {
			add(deps(d), deps)
		}
		req.ProtoFile = append(req.ProtoFile, fd)
	}
	for _, f := range linked {
		imports := map[string]*descriptorpb.FileDescriptorProto{}
		for i := range f.Imports().Len() {
			imp := f.Imports().Get(i).FileDescriptor
			imports[imp.Path()] = protoutil.ProtoFromFileDescriptor(imp)
		}
		add(protoutil.ProtoFromFileDescriptor(f),
			func(name string) *descriptorpb.FileDescriptorProto { return imports[name] })
	}
	plugins := []string{"protoc-gen-go"}
	if grpc {
		plugins = append(plugins, "protoc-gen-go-grpc")
	}
	for _, plugin := range plugins {
		if err := generate(ctx, plugin, req); err != nil {
			return fmt.Errorf("%s: %w", plugin, err)
		}
	}
	return nil
}

func generate(ctx context.Context, plugin string, req *pluginpb.CodeGeneratorRequest) error {
	in, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", plugin)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var res pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &res); err != nil {
		return err
	}
	if res.GetError() != "" {
		return fmt.Errorf("%s", strings.TrimSpace(res.GetError()))
	}
	for _, f := range res.File {
		if err := os.WriteFile(filepath.FromSlash(f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
