redo-ifchange hello.docker.tar debian.docker.tar
