redo-ifchange app.made install.made
"${RDVM:-rdvm}" pack --format tar --base install -o "$3" app
