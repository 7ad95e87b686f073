// Encrypts or decrypts one layer with containers/ocicrypt, the library inside skopeo, buildah and containerd:
//
//	layercrypt encrypt|decrypt IN OUT KEY...  <descriptor.json  >descriptor.json
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/containers/ocicrypt"
	encconfig "github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/helpers"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func run(mode, in, out string, keys []string) error {
	var desc ocispec.Descriptor
	if err := json.NewDecoder(os.Stdin).Decode(&desc); err != nil {
		return err
	}
	input, err := os.Open(in)
	if err != nil {
		return err
	}
	output, err := os.Create(out)
	if err != nil {
		return err
	}
	var config encconfig.CryptoConfig
	if mode == "encrypt" {
		config, err = helpers.CreateCryptoConfig(keys, nil)
	} else {
		config, err = helpers.CreateCryptoConfig(nil, keys)
	}
	if err != nil {
		return err
	}
	if mode == "encrypt" {
		reader, finish, err := ocicrypt.EncryptLayer(config.EncryptConfig, input, desc)
		if err != nil {
			return err
		}
		if _, err := io.Copy(output, reader); err != nil {
			return err
		}
		if desc.Annotations, err = finish(); err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(desc)
	}
	reader, _, err := ocicrypt.DecryptLayer(config.DecryptConfig, input, desc, false)
	if err != nil {
		return err
	}
	_, err = io.Copy(output, reader)
	return err
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
