redo-ifchange simple.tar libs.tar
"${RDVM:-rdvm}" pack --format docker --tag hello:latest --entrypoint /bin/hello -o "$3" --layer simple.tar --layer libs.tar
